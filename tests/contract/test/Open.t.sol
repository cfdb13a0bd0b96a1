// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IChannelEscrow} from "microwallet/escrow/contract/IChannelEscrow.sol";
import {Fixture} from "../src/Fixture.sol";
import {
    AcceptingToken,
    FalseToken,
    FeeToken,
    GenerousToken,
    ITestUSDC,
    NoReturnToken,
    PlainToken,
    ReentrantToken,
    TakingToken
} from "../src/Tokens.sol";

/// @notice Cases of open.tree.
contract OpenTest is Fixture {
    function test_open_stores_and_emits_the_channel() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        vm.expectEmit(address(escrow));
        emit IChannelEscrow.ChannelOpened(_id(channel), payer, payee, address(usdc), channel.salt, signer, DEPOSIT);
        vm.prank(payer);
        bytes32 channelId = escrow.open(payee, address(usdc), DEPOSIT, channel.salt, signer);
        vm.assertEq(channelId, _id(channel), "returned id");
        _checkState(channel, DEPOSIT, 0, 0, false);
        vm.assertEq(usdc.balanceOf(address(escrow)), DEPOSIT, "the escrow holds the deposit");
    }

    function test_open_takes_the_native_coin() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(NATIVE);
        _checkState(channel, DEPOSIT, 0, 0, false);
        vm.assertEq(address(escrow).balance, DEPOSIT, "the escrow holds the deposit");
    }

    function test_open_takes_a_token_without_return_values() public {
        NoReturnToken token = new NoReturnToken();
        _fund(address(token), payer);
        _checkState(_opened(address(token)), DEPOSIT, 0, 0, false);
    }

    function test_open_takes_a_channel_with_oneself() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        channel.payee = payer;
        _open(channel, DEPOSIT);
    }

    function test_open_refuses_the_zero_payee() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        channel.payee = address(0);
        bytes memory expected = abi.encodeWithSelector(IChannelEscrow.InvalidPayee.selector, address(0));
        _call(payer, _openData(channel, DEPOSIT), expected);
    }

    function test_open_refuses_a_zero_deposit() public {
        bytes memory expected = abi.encodeWithSelector(IChannelEscrow.ZeroDeposit.selector);
        _call(payer, _openData(_channel(address(usdc)), 0), expected);
    }

    function testFuzz_open_bounds_the_deposit(uint8 step, bool native) public {
        uint128 deposit = uint128(MAX - 1 + step % 3);
        IChannelEscrow.ChannelDescriptor memory channel = _channel(native ? NATIVE : address(usdc));
        bytes memory expected =
            deposit > MAX ? abi.encodeWithSelector(IChannelEscrow.DepositOverflow.selector, deposit) : bytes("");
        _call(payer, native ? deposit : 0, _openData(channel, deposit), expected);
        _checkState(channel, deposit > MAX ? 0 : deposit, 0, 0, false);
    }

    function test_open_refuses_an_id_in_any_state() public {
        bytes4 exists = IChannelEscrow.ChannelAlreadyExists.selector;
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _call(payer, _openData(channel, DEPOSIT), _error(exists, _id(channel)));
        _call(payer, abi.encodeCall(IChannelEscrow.requestClose, (channel)));
        _call(payer, _openData(channel, DEPOSIT), _error(exists, _id(channel)));
        _call(payee, _closeData(channel, DEPOSIT, DEPOSIT));
        _call(payer, _openData(channel, DEPOSIT), _error(exists, _id(channel)));
    }

    function test_open_gives_another_caller_another_channel() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _fund(address(usdc), stranger);
        channel.payer = stranger;
        _open(channel, 5);
        _checkState(channel, 5, 0, 0, false);
    }

    function testFuzz_open_needs_the_exact_value(uint8 step) public {
        uint256 value = DEPOSIT - 1 + step % 3;
        bytes memory expected =
            value == DEPOSIT ? bytes("") : _error(IChannelEscrow.InvalidValue.selector, value, DEPOSIT);
        _call(payer, value, _openData(_channel(NATIVE), DEPOSIT), expected);
    }

    function test_open_refuses_value_with_a_token() public {
        bytes memory expected = _error(IChannelEscrow.InvalidValue.selector, 1, 0);
        _call(payer, 1, _openData(_channel(address(usdc)), DEPOSIT), expected);
    }

    function test_open_reverts_without_an_allowance() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        vm.prank(payer);
        usdc.approve(address(escrow), DEPOSIT - 1);
        bytes4 selector = bytes4(keccak256("ERC20InsufficientAllowance(address,uint256,uint256)"));
        bytes memory expected = abi.encodeWithSelector(selector, address(escrow), DEPOSIT - 1, DEPOSIT);
        _call(payer, _openData(channel, DEPOSIT), expected);
        _checkState(channel, 0, 0, 0, false);
    }

    function test_open_reverts_for_an_address_without_code() public {
        _fails(payer, 0, _openData(_channel(stranger), DEPOSIT));
    }

    function test_open_refuses_what_does_not_arrive_in_full() public {
        _checkRefused(address(new FeeToken()), DEPOSIT - 1);
        _checkRefused(address(new GenerousToken()), DEPOSIT + 1);
        _checkRefused(address(new AcceptingToken()), 0);
    }

    function _checkRefused(address token, uint256 received) private {
        _fund(token, payer);
        bytes memory expected =
            abi.encodeWithSelector(IChannelEscrow.DepositNotReceived.selector, token, received, DEPOSIT);
        _call(payer, _openData(_channel(token), DEPOSIT), expected);
    }

    function test_open_refuses_a_token_that_takes_instead() public {
        TakingToken token = new TakingToken();
        _fund(address(token), payer);
        token.mint(address(escrow), DEPOSIT);
        _fails(payer, 0, _openData(_channel(address(token)), DEPOSIT));
    }

    function test_open_refuses_a_token_that_says_false() public {
        FalseToken token = new FalseToken();
        _fund(address(token), payer);
        bytes4 selector = bytes4(keccak256("SafeERC20FailedOperation(address)"));
        _call(payer, _openData(_channel(address(token)), DEPOSIT), abi.encodeWithSelector(selector, address(token)));
    }

    function test_open_cannot_be_entered_again() public {
        ReentrantToken token = new ReentrantToken();
        _fund(address(token), payer);
        _fund(address(token), address(token));
        token.arm(address(escrow), abi.encodeCall(IChannelEscrow.open, (payee, address(token), 7, 0, signer)));
        _opened(address(token));
        vm.assertEq(token.called(), true, "called back");
        vm.assertEq(token.succeeded(), false, "entered again");
        vm.assertEq(bytes32(token.result()), bytes32(bytes4(keccak256("ReentrancyGuardReentrantCall()"))), "reason");
    }

    function test_native_coin_is_not_taken_without_a_channel() public {
        vm.prank(payer);
        (bool success,) = address(escrow).call{value: 1}("");
        vm.assertEq(success, false, "plain transfer");
    }
}

/// @notice Cases of openWithAuthorization.tree and topUpWithAuthorization.tree.
contract AuthorizationDepositTest is Fixture {
    function test_open_authorization_opens_for_its_signer() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        bytes memory data = _openAuthorized(channel);
        vm.expectEmit(address(escrow));
        emit IChannelEscrow.ChannelOpened(_id(channel), payer, payee, address(usdc), channel.salt, signer, DEPOSIT);
        _call(stranger, data);
        _checkState(channel, DEPOSIT, 0, 0, false);
    }

    function test_open_authorization_cannot_be_replayed() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        bytes memory data = _openAuthorized(channel);
        _call(stranger, data);
        _call(stranger, data, _error(IChannelEscrow.ChannelAlreadyExists.selector, _id(channel)));
    }

    function test_open_authorization_binds_every_part_of_the_channel() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        bytes32 nonce = _openNonce(channel);
        bytes memory signature = _authorizeReceive(PAYER_KEY, DEPOSIT, nonce);
        for (uint256 part = 0; part < 5; ++part) {
            IChannelEscrow.ChannelDescriptor memory other = IChannelEscrow.ChannelDescriptor(
                channel.payer, channel.payee, channel.token, channel.salt, channel.authorizedSigner
            );
            if (part == 0) other.payer = stranger;
            if (part == 1) other.payee = stranger;
            if (part == 2) other.token = address(new PlainToken());
            if (part == 3) other.salt = bytes32(uint256(999));
            if (part == 4) other.authorizedSigner = stranger;
            bytes memory expected =
                abi.encodeWithSelector(IChannelEscrow.NonceMismatch.selector, nonce, _openNonce(other));
            _call(stranger, _openAuthorized(other, DEPOSIT, nonce, signature), expected);
            _fails(stranger, 0, _openAuthorized(other, DEPOSIT, _openNonce(other), signature));
        }
        _fails(stranger, 0, _openAuthorized(channel, DEPOSIT - 1, nonce, signature));
        _call(stranger, _openAuthorized(channel, DEPOSIT, nonce, signature));
    }

    function test_open_authorization_cannot_be_taken_to_the_token() public {
        bytes32 nonce = _openNonce(_channel(address(usdc)));
        bytes memory signature = _authorizeReceive(PAYER_KEY, DEPOSIT, nonce);
        vm.prank(stranger);
        (bool success,) = address(usdc)
            .call(
                abi.encodeWithSignature(
                    "receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
                    payer,
                    address(escrow),
                    DEPOSIT,
                    VALID_AFTER,
                    VALID_BEFORE,
                    nonce,
                    signature
                )
            );
        vm.assertEq(success, false, "taken to the token");
    }

    function test_open_authorization_follows_the_rules_of_open() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        channel.payee = address(0);
        bytes memory expected = abi.encodeWithSelector(IChannelEscrow.InvalidPayee.selector, address(0));
        _call(stranger, _openAuthorized(channel), expected);
        channel.payee = payee;
        bytes32 nonce = _openNonce(channel);
        expected = abi.encodeWithSelector(IChannelEscrow.ZeroDeposit.selector);
        _call(stranger, _openAuthorized(channel, 0, nonce, _authorizeReceive(PAYER_KEY, 0, nonce)), expected);
        uint128 tooMuch = uint128(MAX + 1);
        expected = abi.encodeWithSelector(IChannelEscrow.DepositOverflow.selector, tooMuch);
        _call(
            stranger, _openAuthorized(channel, tooMuch, nonce, _authorizeReceive(PAYER_KEY, tooMuch, nonce)), expected
        );
    }

    function test_open_authorization_refuses_the_native_coin() public {
        bytes memory expected = abi.encodeWithSelector(IChannelEscrow.InvalidToken.selector, NATIVE);
        _call(stranger, _openAuthorized(_channel(NATIVE)), expected);
        _fails(payer, DEPOSIT, _openAuthorized(_channel(address(usdc))));
    }

    function test_open_authorization_reverts_when_the_token_refuses() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        bytes memory data = _openAuthorized(channel);
        vm.warp(VALID_AFTER);
        _fails(stranger, 0, data);
        vm.warp(VALID_BEFORE);
        _fails(stranger, 0, data);
        vm.warp(VALID_BEFORE - 1);
        _call(stranger, data);
    }

    function test_open_authorization_refuses_a_token_that_accepts_anything() public {
        AcceptingToken token = new AcceptingToken();
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(token));
        bytes memory expected =
            abi.encodeWithSelector(IChannelEscrow.DepositNotReceived.selector, address(token), 0, DEPOSIT);
        _call(stranger, _openAuthorized(channel), expected);
    }

    function test_open_authorization_refuses_a_token_without_it() public {
        PlainToken token = new PlainToken();
        _fund(address(token), payer);
        _fails(stranger, 0, _openAuthorized(_channel(address(token))));
    }

    function test_open_authorization_counts_one_deposit_once() public {
        ReentrantToken token = new ReentrantToken();
        _fund(address(token), address(token));
        bytes memory inner = abi.encodeCall(IChannelEscrow.open, (payee, address(token), DEPOSIT, 0, signer));
        token.arm(address(escrow), inner);
        bytes memory expected =
            abi.encodeWithSelector(IChannelEscrow.DepositNotReceived.selector, address(token), 0, DEPOSIT);
        _call(stranger, _openAuthorized(_channel(address(token))), expected);
    }

    function _topUpNonce(IChannelEscrow.ChannelDescriptor memory channel, uint128 amount, bytes32 salt)
        private
        view
        returns (bytes32)
    {
        return keccak256(abi.encode(_id(channel), amount, channel.payer, salt));
    }

    function _topUpAuthorized(
        IChannelEscrow.ChannelDescriptor memory channel,
        uint128 amount,
        bytes32 salt,
        bytes32 nonce,
        bytes memory signature
    ) private pure returns (bytes memory) {
        return abi.encodeCall(
            IChannelEscrow.topUpWithAuthorization, (channel, amount, salt, VALID_AFTER, VALID_BEFORE, nonce, signature)
        );
    }

    function _topUpAuthorized(IChannelEscrow.ChannelDescriptor memory channel, uint128 amount, bytes32 salt)
        private
        view
        returns (bytes memory)
    {
        bytes32 nonce = _topUpNonce(channel, amount, salt);
        return _topUpAuthorized(channel, amount, salt, nonce, _authorizeReceive(PAYER_KEY, amount, nonce));
    }

    function test_top_up_authorization_adds_and_cancels_a_close_request() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _call(payer, abi.encodeCall(IChannelEscrow.requestClose, (channel)));
        bytes memory data = _topUpAuthorized(channel, 5, "salt");
        vm.expectEmit(address(escrow));
        emit IChannelEscrow.TopUp(_id(channel), payer, payee, 5, DEPOSIT + 5);
        vm.expectEmit(address(escrow));
        emit IChannelEscrow.CloseRequestCancelled(_id(channel), payer, payee);
        _call(stranger, data);
        _checkState(channel, DEPOSIT + 5, 0, 0, false);
    }

    function test_top_up_authorization_cannot_be_replayed() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory data = _topUpAuthorized(channel, 5, "salt");
        _call(stranger, data);
        _fails(stranger, 0, data);
        _call(stranger, _topUpAuthorized(channel, 5, "other salt"));
        _checkState(channel, DEPOSIT + 10, 0, 0, false);
    }

    function test_top_up_authorization_binds_channel_amount_and_salt() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        IChannelEscrow.ChannelDescriptor memory other = _opened(address(usdc));
        bytes32 nonce = _topUpNonce(channel, 5, "salt");
        bytes memory signature = _authorizeReceive(PAYER_KEY, 5, nonce);
        bytes4 mismatch = IChannelEscrow.NonceMismatch.selector;
        _call(
            stranger,
            _topUpAuthorized(other, 5, "salt", nonce, signature),
            abi.encodeWithSelector(mismatch, nonce, _topUpNonce(other, 5, "salt"))
        );
        _call(
            stranger,
            _topUpAuthorized(channel, 6, "salt", nonce, signature),
            abi.encodeWithSelector(mismatch, nonce, _topUpNonce(channel, 6, "salt"))
        );
        _call(
            stranger,
            _topUpAuthorized(channel, 5, "other", nonce, signature),
            abi.encodeWithSelector(mismatch, nonce, _topUpNonce(channel, 5, "other"))
        );
        _fails(stranger, 0, _topUpAuthorized(other, 5, "salt", _topUpNonce(other, 5, "salt"), signature));
    }

    function test_top_up_authorization_comes_from_the_payer_only() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _call(payer, abi.encodeCall(IChannelEscrow.requestClose, (channel)));
        usdc.mint(payee, DEPOSIT);
        bytes32 nonce = _topUpNonce(channel, 1, "dust");
        _fails(payee, 0, _topUpAuthorized(channel, 1, "dust", nonce, _authorizeReceive(PAYEE_KEY, 1, nonce)));
        _checkState(channel, DEPOSIT, 0, START, false);
    }

    function test_top_up_authorization_follows_the_rules_of_top_up() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        bytes memory data = _topUpAuthorized(channel, 5, "salt");
        _call(stranger, data, _error(IChannelEscrow.ChannelNotFound.selector, _id(channel)));
        _open(channel, DEPOSIT);
        bytes memory expected = abi.encodeWithSelector(IChannelEscrow.ZeroDeposit.selector);
        _call(stranger, _topUpAuthorized(channel, 0, "salt"), expected);
        _call(payee, _closeData(channel, 1, 1));
        _call(stranger, data, _error(IChannelEscrow.ChannelFinalized.selector, _id(channel)));
        IChannelEscrow.ChannelDescriptor memory native = _opened(NATIVE);
        expected = abi.encodeWithSelector(IChannelEscrow.InvalidToken.selector, NATIVE);
        _call(stranger, _topUpAuthorized(native, 5, "salt"), expected);
    }

    function test_top_up_authorization_refuses_what_does_not_arrive() public {
        ReentrantToken token = new ReentrantToken();
        _fund(address(token), payer);
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(token));
        bytes memory expected = abi.encodeWithSelector(IChannelEscrow.DepositNotReceived.selector, address(token), 0, 5);
        _call(stranger, _topUpAuthorized(channel, 5, "salt"), expected);
    }
}

/// @notice Cases of openWithPermit.tree and topUpWithPermit.tree.
contract PermitDepositTest is Fixture {
    struct Permit {
        uint256 deadline;
        uint8 v;
        bytes32 r;
        bytes32 s;
    }

    function setUp() public override {
        super.setUp();
        vm.prank(payer);
        usdc.approve(address(escrow), 0);
    }

    function _permit(uint256 value) private view returns (Permit memory permit) {
        bytes32 typeHash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        permit.deadline = START + 600;
        bytes memory content = abi.encode(typeHash, payer, address(escrow), value, usdc.nonces(payer), permit.deadline);
        bytes32 digest = _digest(_domain("USDC", "2", address(usdc), block.chainid), content);
        (permit.v, permit.r, permit.s) = vm.sign(PAYER_KEY, digest);
    }

    function _openPermitted(IChannelEscrow.ChannelDescriptor memory channel, Permit memory permit)
        private
        pure
        returns (bytes memory)
    {
        return abi.encodeCall(
            IChannelEscrow.openWithPermit,
            (
                channel.payee,
                channel.token,
                DEPOSIT,
                channel.salt,
                channel.authorizedSigner,
                permit.deadline,
                permit.v,
                permit.r,
                permit.s
            )
        );
    }

    function _topUpPermitted(IChannelEscrow.ChannelDescriptor memory channel, uint128 amount, Permit memory permit)
        private
        pure
        returns (bytes memory)
    {
        return abi.encodeCall(
            IChannelEscrow.topUpWithPermit, (channel, amount, permit.deadline, permit.v, permit.r, permit.s)
        );
    }

    function test_open_permit_opens_and_leaves_no_allowance() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        _call(payer, _openPermitted(channel, _permit(DEPOSIT)));
        _checkState(channel, DEPOSIT, 0, 0, false);
        vm.assertEq(usdc.allowance(payer, address(escrow)), 0, "allowance left");
    }

    function test_open_permit_survives_being_submitted_by_others_first() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        Permit memory permit = _permit(DEPOSIT);
        vm.prank(stranger);
        usdc.permit(payer, address(escrow), DEPOSIT, permit.deadline, permit.v, permit.r, permit.s);
        _call(payer, _openPermitted(channel, permit));
        _checkState(channel, DEPOSIT, 0, 0, false);
    }

    function test_open_permit_of_another_caller_moves_nothing_of_the_signer() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        _fails(stranger, 0, _openPermitted(channel, _permit(DEPOSIT)));
    }

    function test_open_permit_cannot_be_replayed() public {
        Permit memory permit = _permit(DEPOSIT);
        _call(payer, _openPermitted(_channel(address(usdc)), permit));
        _fails(payer, 0, _openPermitted(_channel(address(usdc)), permit));
    }

    function test_open_permit_reverts_when_expired() public {
        Permit memory permit = _permit(DEPOSIT);
        vm.warp(permit.deadline + 1);
        _fails(payer, 0, _openPermitted(_channel(address(usdc)), permit));
        vm.warp(permit.deadline);
        _call(payer, _openPermitted(_channel(address(usdc)), permit));
    }

    function test_open_permit_works_with_a_standing_allowance_and_no_permit() public {
        PlainToken token = new PlainToken();
        _fund(address(token), payer);
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(token));
        _call(payer, _openPermitted(channel, _permit(DEPOSIT)));
        _checkState(channel, DEPOSIT, 0, 0, false);
    }

    function test_open_permit_refuses_the_native_coin() public {
        bytes memory expected = abi.encodeWithSelector(IChannelEscrow.InvalidToken.selector, NATIVE);
        _call(payer, _openPermitted(_channel(NATIVE), _permit(DEPOSIT)), expected);
    }

    function test_open_permit_refuses_a_token_that_accepts_anything() public {
        AcceptingToken token = new AcceptingToken();
        bytes memory expected =
            abi.encodeWithSelector(IChannelEscrow.DepositNotReceived.selector, address(token), 0, DEPOSIT);
        _call(payer, _openPermitted(_channel(address(token)), _permit(DEPOSIT)), expected);
    }

    function test_top_up_permit_adds_and_cancels_a_close_request() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        _call(payer, _openPermitted(channel, _permit(DEPOSIT)));
        _call(payer, abi.encodeCall(IChannelEscrow.requestClose, (channel)));
        _call(payer, _topUpPermitted(channel, 5, _permit(5)));
        _checkState(channel, DEPOSIT + 5, 0, 0, false);
    }

    function test_top_up_permit_is_the_payers_alone() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        _call(payer, _openPermitted(channel, _permit(DEPOSIT)));
        bytes memory data = _topUpPermitted(channel, 5, _permit(5));
        _call(stranger, data, _error(IChannelEscrow.NotPayer.selector, stranger, payer));
        _call(payer, data);
        _fails(payer, 0, data);
        _checkState(channel, DEPOSIT + 5, 0, 0, false);
    }

    function test_top_up_permit_refuses_what_does_not_arrive_in_full() public {
        PlainToken token = new PlainToken();
        _fund(address(token), payer);
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(token));
        vm.etch(address(token), address(new FeeToken()).code);
        bytes memory expected = abi.encodeWithSelector(IChannelEscrow.DepositNotReceived.selector, address(token), 4, 5);
        _call(payer, _topUpPermitted(channel, 5, _permit(5)), expected);
    }

    function test_top_up_permit_refuses_the_native_coin() public {
        bytes memory expected = abi.encodeWithSelector(IChannelEscrow.InvalidToken.selector, NATIVE);
        _call(payer, _topUpPermitted(_opened(NATIVE), 5, _permit(5)), expected);
    }
}
